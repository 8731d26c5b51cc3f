"""Resources that have events sent to functions and that the embedded CloudFormation does not know.

Sources: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_Scheduler.html and aws-resource-logs-subscriptionfilter.html.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.aws.lambda_resources import Handler, Made, Properties, Replace, tags_of

_FIXED = ("Name", "GroupName")
_SCHEDULE = (
    "ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "Target", "State", "Description", "StartDate", "EndDate", "KmsKeyArn",
)  # fmt: skip


class ScheduleHandler(Handler):
    """AWS::Scheduler::Schedule."""

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("Name") or name
        arguments = {member: properties[member] for member in (*_SCHEDULE, "GroupName") if properties.get(member) is not None}
        arn = self.clients("scheduler").create_schedule(Name=called, **arguments)["ScheduleArn"]
        return Made(called, called, {"Arn": arn})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(member) != new.get(member) for member in _FIXED):
            raise Replace
        arguments = {member: new[member] for member in (*_SCHEDULE, "GroupName") if new.get(member) is not None}
        self.clients("scheduler").update_schedule(Name=made.physical, **arguments)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        scheduler = self.clients("scheduler")
        group = {"GroupName": properties["GroupName"]} if properties.get("GroupName") else {}
        self.forgiving(scheduler.delete_schedule, scheduler.exceptions.ResourceNotFoundException, Name=made.physical, **group)


class ScheduleGroupHandler(Handler):
    """AWS::Scheduler::ScheduleGroup."""

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("Name") or name
        arn = self.clients("scheduler").create_schedule_group(Name=called, Tags=properties.get("Tags") or [])["ScheduleGroupArn"]
        return Made(called, called, {"Arn": arn})

    def delete(self, made: Made, properties: Properties) -> None:
        scheduler = self.clients("scheduler")
        self.forgiving(scheduler.delete_schedule_group, scheduler.exceptions.ClientError, Name=made.physical)


class LogSubscriptionHandler(Handler):
    """AWS::Logs::SubscriptionFilter."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("FilterName") or name
        arguments = {"roleArn": properties["RoleArn"]} if properties.get("RoleArn") else {}
        self.clients("logs").put_subscription_filter(
            logGroupName=properties["LogGroupName"],
            filterName=called,
            filterPattern=properties.get("FilterPattern", ""),
            destinationArn=properties["DestinationArn"],
            **arguments,
        )
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        logs = self.clients("logs")
        self.forgiving(
            logs.delete_subscription_filter, logs.exceptions.ResourceNotFoundException, logGroupName=properties["LogGroupName"], filterName=made.physical
        )


class LogGroupHandler(Handler):
    """AWS::Logs::LogGroup, whose changes the embedded CloudFormation does not know."""

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("LogGroupName") or name
        logs = self.clients("logs")
        arguments = {"kmsKeyId": properties["KmsKeyId"]} if properties.get("KmsKeyId") else {}
        logs.create_log_group(logGroupName=called, tags=tags_of(properties), **arguments)
        self._retain(called, properties)
        (arn,) = [g["arn"] for g in logs.describe_log_groups(logGroupNamePrefix=called)["logGroups"] if g["logGroupName"] == called]
        return Made(called, called, {"Arn": arn})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(member) != new.get(member) for member in ("LogGroupName", "KmsKeyId")):
            raise Replace
        self._retain(made.physical, new)
        before, after = tags_of(old), tags_of(new)
        arn = made.attributes["Arn"].removesuffix(":*")
        if before.keys() - after.keys():
            self.clients("logs").untag_resource(resourceArn=arn, tagKeys=sorted(before.keys() - after.keys()))
        if after and after != before:
            self.clients("logs").tag_resource(resourceArn=arn, tags=after)
        return made

    def _retain(self, name: str, properties: Properties) -> None:
        days = properties.get("RetentionInDays")
        logs = self.clients("logs")
        if days:
            logs.put_retention_policy(logGroupName=name, retentionInDays=int(days))
        else:
            logs.delete_retention_policy(logGroupName=name)

    def delete(self, made: Made, properties: Properties) -> None:
        logs = self.clients("logs")
        self.forgiving(logs.delete_log_group, logs.exceptions.ResourceNotFoundException, logGroupName=made.physical)


# What only the embedded CloudFormation makes so: what else is made there may refer to it.
LOG_GROUP: Mapping[str, type[Handler]] = {"AWS::Logs::LogGroup": LogGroupHandler}
EVENT_RESOURCES: Mapping[str, type[Handler]] = {
    "AWS::Scheduler::Schedule": ScheduleHandler,
    "AWS::Scheduler::ScheduleGroup": ScheduleGroupHandler,
    "AWS::Logs::SubscriptionFilter": LogSubscriptionHandler,
}
